"""Capacity: how many replicas of the service a load needs, from measured service times and a simulated scheduler."""
