"""DICOM series and NIfTI volumes, cut into labelled slices."""
