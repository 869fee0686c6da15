"""Files that go to banks and others who pay, and what they answer: pure functions on bytes."""
