// Package uninstall removes what podid leaves behind after an uninstall, finished or interrupted:
// assigned identities without a MIC, identities that MIC attached to VMs and scale sets, and MIC's
// own records.
//
// Read returns what there is, For decides what to do (pure, so that it can be shown first), and
// Cleaner does it. It can be interrupted anywhere and run again.
package uninstall
