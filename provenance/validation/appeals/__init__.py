"""Answers owners who contest a share, by trainings with and without their works."""
