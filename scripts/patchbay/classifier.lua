-- Linear classifiers for probes, in terms of scalar products of examples: n x n, whatever the width.
local pb = require "patchbay"

local classifier = {}

local function one_hot(labels, rows, n_classes)
  local y = pb.zeros { #rows, n_classes }
  for i, row in ipairs(rows) do y:set(i - 1, labels[row] - 1, 1) end
  return y
end

-- Weights of examples [n, classes] so that scores are (products with the training examples) x (weights), and the intercepts.
local SOLVERS = {
  linear = function(K, y, ridge)
    local shift, damped = y:mean(0), K:clone()
    for i = 0, K.shape[1] - 1 do damped:set(i, i, damped:get(i, i) + ridge * K.shape[1]) end
    return damped:solve(y - shift), shift
  end,
  logistic = function(K, y, ridge) -- minimises mean cross entropy + ridge / 2 |W|^2, by accelerated gradient steps on the examples' weights
    local n = K.shape[1]
    local step, shift = 1 / (0.5 * K:abs():sum(1):max() / n + ridge), (y:mean(0) + 1e-6):log()
    local a, ahead, momentum = pb.zeros(y.shape), nil, 1
    ahead = a
    for _ = 1, 200 do
      local gradient = ((K:matmul(ahead) + shift):softmax(1) - y) / n + ahead * ridge
      local new, next_momentum = ahead - gradient * step, (1 + (1 + 4 * momentum ^ 2) ^ 0.5) / 2
      ahead, a, momentum = new + (new - a) * ((momentum - 1) / next_momentum), new, next_momentum
    end
    return a, shift
  end,
}

-- classifier.fit(x [n, d], labels (1 to classes), classes [, method, ridge]) -> { W [d, classes], b [classes], mean [d], scores = function(x) }
function classifier.fit(x, labels, n_classes, method, ridge)
  local rows, mean = {}, x:mean(0)
  for i = 1, #labels do rows[i] = i end
  local centred = x - mean
  local scale = math.max(centred:square():sum() / #labels, 1e-30) ^ 0.5                        -- examples of mean length 1
  centred = centred / scale
  local weights, shift = SOLVERS[method or "linear"](centred:matmul(centred:transpose(0, 1)), one_hot(labels, rows, n_classes), ridge or 0.01)
  local W = centred:transpose(0, 1):matmul(weights) / scale
  return { W = W, b = shift, mean = mean, scores = function(z) return (z - mean):matmul(W) + shift end }
end

-- An orthonormal basis [d, k] of the columns' span.
function classifier.basis(columns, k)
  local u, s = columns:svd()
  local rank, n = 0, math.min(k, s.count)
  for i = 0, n - 1 do rank = s:get(i) > 1e-5 * s:get(0) and rank + 1 or rank end
  return u:narrow(1, 0, math.max(rank, 1))
end

return classifier
