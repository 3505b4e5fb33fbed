// Answers who it is, so that one can see which process and which version a request reached.
const express = require('express')
const os = require('os')

const VERSION = '1'
const app = express()
const whoami = () => `node-demo version ${VERSION}, process ${process.pid} on ${os.hostname()}\n`

app.get('/', (request, response) => response.type('text').send(`Hello from Flynn! This is ${whoami()}`))

app.get('/version', (request, response) => response.type('text').send(`${VERSION}\n`))

app.get('/hostname', (request, response) => response.type('text').send(`${os.hostname()}\n`))

// Only what an example may show: never the whole environment of an app.
app.get('/env/:name', (request, response) => {
  if (!/^DEMO_|^[A-C]$/.test(request.params.name)) return response.status(403).type('text').send('not shown\n')
  response.type('text').send(`${process.env[request.params.name] ?? ''}\n`)
})

// Sends back what it is sent, as it comes.
app.post('/echo', (request, response) => {
  response.type(request.headers['content-type'] || 'application/octet-stream')
  request.pipe(response)
})

// A line a second, to watch streaming.
app.get('/stream', (request, response) => {
  let count = 0
  response.type('text')
  const timer = setInterval(() => {
    response.write(`${++count} from ${whoami()}`)
    if (count === 5) response.end()
  }, 1000)
  response.on('close', () => clearInterval(timer))
})

const server = app.listen(process.env.PORT || 8080, '0.0.0.0', () => console.log(`listening on ${process.env.PORT || 8080}`))

// The router keeps its connections to us for a while: let it be the one who closes them.
server.keepAliveTimeout = 75_000
server.headersTimeout = 80_000

// Told to stop: finish what is under way, take nothing new.
process.on('SIGTERM', () => {
  console.log('stopping')
  server.close(() => process.exit(0))
  server.closeIdleConnections()
})
