"""How fits are found: plans, solvers, penalties, training by epochs. No method is known here."""
