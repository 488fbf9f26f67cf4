"""The networks that QuadraNet is compared with, in own code: for cost and speed, with torch's default weights."""
