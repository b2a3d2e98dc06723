//go:build !linux

package azure

import "io/fs"

// inode returns 0. podid runs on Linux; this lets the package build on developers' machines.
func inode(fs.FileInfo) uint64 { return 0 }
