"""What people are told: sentences, and the Events that carry them."""
