"""How the command line draws for people; plain lines, which cost less than a plan."""
