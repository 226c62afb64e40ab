"""A user-space network driver in Python for Intel ixgbe NICs, secured by VFIO and the IOMMU."""
