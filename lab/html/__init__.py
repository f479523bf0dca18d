"""The report as one HTML file: pictures and tables from a run's folder. Nothing here measures or judges."""
