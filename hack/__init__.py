"""What obtains and starts the test cluster; never part of the installed project."""
