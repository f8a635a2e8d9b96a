"""One self-contained report.html from one run or several."""
