"""Files in, masks out: volumes become tasks of Label Studio, and what is drawn goes back."""
