"""What makes an appliance of a flashed machine at its first boot. It runs before the program is
there, with the Python of the machine and its standard library alone."""
