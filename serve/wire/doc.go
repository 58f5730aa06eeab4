// Package wire is what the HTTP interfaces of serve share in reading requests of
// strangers and in answering them piece by piece: bounded bodies and server-sent
// events.
package wire
