-- wrk's side of bench/replica_server.py: random ranges from a prepared list, and a line of JSON at the end.
-- Arguments: the list (a range's first byte a line), bytes a range, the Connection and Cookie headers.
local requests, turn = {}, 0

function init(arguments)
  local length, headers = tonumber(arguments[2]), { ["Connection"] = arguments[3] }
  if arguments[4] then headers["Cookie"] = arguments[4] end
  for line in io.lines(arguments[1]) do
    local first = tonumber(line)
    headers["Range"] = string.format("bytes=%d-%d", first, first + length - 1)
    requests[#requests + 1] = wrk.format("GET", nil, headers)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "bytes": %d, "seconds": %f, "median_ms": %f, "p99_ms": %f, "errors": %d}\n',
    summary.requests, summary.bytes, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
