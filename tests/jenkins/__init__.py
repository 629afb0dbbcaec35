"""Tests of the Jenkins jobs without Jenkins."""
