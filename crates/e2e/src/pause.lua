-- Milliseconds a connection of wrk waits before each request.
function delay()
  return math.random(8, 24)
end
