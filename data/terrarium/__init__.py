"""The Terrarium is a small synthetic world of invented creatures, sums, stories and drawn scenes."""
