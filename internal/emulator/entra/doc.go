// Package entra is the emulated Entra ID. It issues real, verifiable tokens and serves the token,
// discovery and key endpoints of v1 and v2.
package entra
