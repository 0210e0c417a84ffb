"""The real-time hand detector of WiLoR's section 4.1: DarkNet, PANet and three anchor-free heads."""
