"""Figures and the viewer."""
