"""The cookbook, a folder per room; here models and rates, schedules, plots, and what a bare install says."""
