"""Guidance by a mathematical program, with the extra `solver`; nothing else imports it."""
