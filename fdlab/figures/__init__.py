"""Figures and tables: a study's result in, drawings out; nothing is loaded, fitted or trained."""
