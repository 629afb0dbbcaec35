"""The API and its proxy beside what they are measured against."""
