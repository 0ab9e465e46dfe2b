"""Which slices stand, who holds them, and which are taken over. Mostly pure."""
