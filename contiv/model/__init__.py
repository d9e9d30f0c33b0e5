"""Nouns that every hop shares: frozen values and the keys under which they live. Imports nothing of ours."""
