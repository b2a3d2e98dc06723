// The @azure/identity client: asks for one token the way a Node.js application
// does, and prints who it is for. DEFAULT_CHAIN takes DefaultAzureCredential,
// which probes first. It is bundled with each of several versions of the
// library: 1.2 knows a client id only, those before 3 no object id.
const { ManagedIdentityCredential, DefaultAzureCredential } = require("@azure/identity");

const env = process.env;

function credential() {
  if (env.DEFAULT_CHAIN) return new DefaultAzureCredential();
  if (env.CLIENT_ID) return new ManagedIdentityCredential(env.LIBRARY === "1.2" ? env.CLIENT_ID : { clientId: env.CLIENT_ID });
  if (env.RESOURCE_ID) return new ManagedIdentityCredential({ resourceId: env.RESOURCE_ID });
  if (env.OBJECT_ID) return new ManagedIdentityCredential({ objectId: env.OBJECT_ID });
  return new ManagedIdentityCredential();
}

async function main() {
  const start = Date.now();
  const token = await credential().getToken(env.RESOURCE + "/.default");
  if (!token) throw new Error("the library returned no token and no error");
  const claims = JSON.parse(Buffer.from(token.token.split(".")[1], "base64url").toString());
  console.log(JSON.stringify({
    client: "@azure/identity", clientID: claims.appid, audience: claims.aud,
    milliseconds: Date.now() - start, expiresIn: Math.round((token.expiresOnTimestamp - Date.now()) / 1000),
    token: env.SHOW_TOKEN ? token.token : undefined,
  }));
}

main().catch((err) => {
  console.error("@azure/identity:", err.message);
  process.exitCode = 1;
});
