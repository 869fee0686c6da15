"""Validates the attribution and published nights.

Audits, attacks and appeals compare predictions with retrained models. Replay computes a published night again and compares;
preview computes a night before anything is booked. Other modules measure cost and remove files that are not needed any more.

Reads scores, and losses of retrained models. Writes scores of merit with intervals, tables and plots. Invariant: parameters are
tuned on other subsets than those reported. Training itself does not belong here: adapters train.
"""
