"""The commands that people run. Start reading here."""
