"""MediaPipe's networks (palm, hand landmarks, BlazePose) and the search for hands with them."""
