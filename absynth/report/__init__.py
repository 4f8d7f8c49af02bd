"""What people look at: tables, figures and pages made from records, with no logic of their own."""
