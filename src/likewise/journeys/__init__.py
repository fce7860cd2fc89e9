"""Journeys: what the command line, the service and Python all call, one function each."""
