// The @azure/identity client: asks for one token the way a Node.js application
// does, and prints who it is for. DEFAULT_CHAIN takes DefaultAzureCredential,
// which probes first.
const { ManagedIdentityCredential, DefaultAzureCredential } = require("@azure/identity");

function credential() {
  if (process.env.DEFAULT_CHAIN) return new DefaultAzureCredential();
  if (process.env.CLIENT_ID) return new ManagedIdentityCredential({ clientId: process.env.CLIENT_ID });
  if (process.env.RESOURCE_ID) return new ManagedIdentityCredential({ resourceId: process.env.RESOURCE_ID });
  return new ManagedIdentityCredential();
}

async function main() {
  const start = Date.now();
  const token = await credential().getToken(process.env.RESOURCE + "/.default");
  const claims = JSON.parse(Buffer.from(token.token.split(".")[1], "base64url").toString());
  console.log(JSON.stringify({
    client: "@azure/identity", clientID: claims.appid, audience: claims.aud,
    milliseconds: Date.now() - start, expiresIn: Math.round((token.expiresOnTimestamp - Date.now()) / 1000),
  }));
}

main().catch((err) => {
  console.error("@azure/identity:", err.message);
  process.exitCode = 1;
});
