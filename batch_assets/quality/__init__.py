"""The verdicts: plain values in, frozen outcomes out."""
