"""Gates between the stages: promises, the runner that has them judged, and the certificates that open what follows."""
