"""Models in the files of other libraries: read and written, never executed."""
