"""What can be made to go wrong with an answer, and how it goes wrong on the wire."""
