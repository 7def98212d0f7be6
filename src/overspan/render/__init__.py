"""A plan as text for other hands: commands to paste, objects of Kubernetes. Nothing is started."""
