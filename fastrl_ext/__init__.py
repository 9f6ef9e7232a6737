"""The compiled parts of the buffers. NumPy in, NumPy out; nothing of fastrl is imported here."""
