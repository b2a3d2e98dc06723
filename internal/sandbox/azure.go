// The emulated Azure that the sandbox's nodes belong to.
package sandbox

// Azure says where the emulator listens, inside of the sandbox.
type Azure struct {
	ARM      string `json:"arm"`
	Entra    string `json:"entra"`
	Metadata string `json:"metadata"`
	Control  string `json:"control"`
}
