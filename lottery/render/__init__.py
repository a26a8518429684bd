"""Notebook to HTML and PDF: two nbconvert exporters, ``lottery_html`` and ``lottery_pdf``."""
