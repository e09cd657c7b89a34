"""The weights of new layers, from old weights and calibration data."""
