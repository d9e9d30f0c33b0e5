"""The two commands: ``contiv`` runs the parts of the system, ``netctl`` shows them to an operator."""
