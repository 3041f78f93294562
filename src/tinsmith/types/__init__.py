"""Wire types and codec that SDK and service share; no torch, no HTTP.

Data (`tensor`, `model_input`, `datum`, `params`, `outputs`), messages (`requests`, `responses`, `operations`), wire
forms (`proto/`, `codec`, `compression`), and small facts (`losses`, `registry`, `paths`, `learning_rate`, `errors`).
"""
