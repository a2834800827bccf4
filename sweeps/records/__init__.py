"""Messages between the driver, the trials and the processes that train them."""
