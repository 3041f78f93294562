"""Tests of learning from preferences."""
