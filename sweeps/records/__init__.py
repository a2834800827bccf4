"""Messages between the driver, the trials and their slots."""
