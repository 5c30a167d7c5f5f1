"""Hardware-software co-design simulator for compressed speech recognition."""
