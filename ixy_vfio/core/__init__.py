"""The ground floor: raw memory, registers, errors. Imports nothing of the floors above."""
