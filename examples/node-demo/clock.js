// A process that is no web server: a line every ten seconds.
const tick = () => console.log(`tick ${new Date().toISOString()}`)
tick()
setInterval(tick, 10_000)
