"""Tests of nas.published."""
